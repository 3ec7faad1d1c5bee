// Browsers start no workers for pages that are opened from disk. So that the search works there, too, the worker's
// script runs in a hidden frame, which passes messages on as a worker does.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(script) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.frame.srcdoc =
        `<script>postMessage = data => frameElement.answer(data)</script><script src="${script}"></script>`
      this.loaded = new Promise(resolve => { this.frame.onload = resolve })
      document.body.append(this.frame)
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
}
