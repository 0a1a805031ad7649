// Search in pages that are opened from a disk: browsers start no worker there, so a hidden frame does its work.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      this.loaded = new Promise(resolve => {
        inside.document.open();
        inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
        inside.importScripts = (...urls) =>
          urls.reduce((before, src) => before.then(() => this.load(inside, src)), Promise.resolve());
        inside.document.write("<html><body></body></html>");
        inside.document.close();
        this.load(inside, url).then(() => resolve(inside));
      });
    }

    load(inside, src) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        script.src = src;
        script.onload = resolve;
        script.onerror = reject;
        inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.loaded.then(inside => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
