"""Reads the page of `bipe-hf segments`."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The texts that a page shows, and all of its tags."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.open, self.tokens = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append((tag, attributes))
        if attributes.get("class") == "text":
            self.texts.append("")
        if "data-code" in attributes:
            self.texts[-1] += chr(int(attributes["data-code"]))
        if "tabindex" in attributes:
            self.tokens.append(attributes | {"text": ""})

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(attributes.get("class") == "text" for _, attributes in self.open):
            self.texts[-1] += data
        if any("tabindex" in attributes for _, attributes in self.open):
            self.tokens[-1]["text"] += data
