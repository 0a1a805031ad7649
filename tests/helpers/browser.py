"""Opens a page in Chromium and prints what is seen of it as JSON: `python browser.py PAGE light|dark`."""

import json
import os
import sys


PAGE, SCHEME = sys.argv[1:]
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"  # which does not start as root
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = (
    f"--disable-gpu --blink-settings=preferredColorScheme={('dark', 'light').index(SCHEME)}"
)
try:
    from PyQt6.QtCore import QEventLoop, QPoint, Qt, QTimer, QUrl
    from PyQt6.QtTest import QTest
    from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication
except ImportError as error:
    sys.exit(f"the check in a browser needs pip install '.[browser]' ({error})")

TEXT = """[...document.querySelectorAll(".text")].map(element => {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
    let text = "", node;
    while ((node = walker.nextNode())) {
        if (node.nodeType === Node.TEXT_NODE) text += node.data;
        else if (node.dataset.code) text += String.fromCodePoint(Number(node.dataset.code));
    }
    return text;
}).join("")"""
# What stands in the panel at the bottom for the element that a selector finds.
PANEL = """(() => {
    const style = getComputedStyle(document.querySelector("[tabindex]:%s"), "::after");
    return style.position === "fixed" && style.bottom === "0px" ? JSON.parse(style.content) : style.cssText;
})()"""
POINT = """(() => {
    const token = document.querySelectorAll("[tabindex]")[30];
    token.scrollIntoView({block: "center"});
    const box = token.getClientRects()[0];
    return [box.left + box.width / 2, box.top + box.height / 2];
})()"""

application = QApplication(sys.argv[:1])
requests, messages = [], []


class Requests(QWebEngineUrlRequestInterceptor):
    def interceptRequest(self, info):  # noqa: N802
        requests.append(info.requestUrl().toString())


class Page(QWebEnginePage):
    def javaScriptAlert(self, origin, message):  # noqa: N802
        messages.append(message)

    def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802
        messages.append(message)


def wait(start):
    """What `start` calls its argument with."""
    loop, answers = QEventLoop(), []
    QTimer.singleShot(30_000, loop.quit)
    start(lambda answer: (answers.append(answer), loop.quit()))
    loop.exec()
    return answers[0]


def evaluate(code):
    return wait(lambda done: page.runJavaScript(code, 0, done))


profile = QWebEngineProfile()
interceptor = Requests()
profile.setUrlRequestInterceptor(interceptor)
page = Page(profile)
view = QWebEngineView()
view.setPage(page)
view.resize(360, 640)
view.show()


def load(done):
    page.loadFinished.connect(done)
    page.load(QUrl.fromLocalFile(PAGE))


assert wait(load), "the page was not loaded"
seen = {
    "text": evaluate(TEXT),
    "scripts": evaluate("document.scripts.length"),
    "background": evaluate("getComputedStyle(document.body).backgroundColor"),
    "too_wide": evaluate("Math.max(0, document.documentElement.scrollWidth - innerWidth)"),
}
view.focusProxy().setFocus()
for _ in range(3):
    QTest.keyClick(view.focusProxy(), Qt.Key.Key_Tab)
QTest.qWait(500)
seen["focused"] = evaluate(PANEL % "focus")
QTest.mouseMove(view.focusProxy(), QPoint(*map(int, evaluate(POINT))))
QTest.qWait(500)
seen["hovered"] = evaluate(PANEL % "hover")
print(json.dumps(seen | {"requests": requests, "messages": messages}), flush=True)
os._exit(0)  # Qt takes its time to end, and may complain
