// Keeps an open page fresh, and says how long ago things were. Everything else works without it.
"use strict";

(() => {
  // The page's policy demands Trusted Types. This one passes HTML unchanged: the server escapes it.
  const gate = window.trustedTypes?.createPolicy("console", { createHTML: (html) => html });
  const parse = (html) =>
    new DOMParser().parseFromString(gate ? gate.createHTML(html) : html, "text/html").body;

  // Times: the server writes UTC, and the reader wants to know how long ago that was.
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const ago = (seconds) => {
    const [unit, size] = units.find(([, size]) => Math.abs(seconds) >= size) ?? ["s", 1];
    const count = Math.trunc(Math.abs(seconds) / size);
    if (count === 0) return "now";
    return seconds > 0 ? `${count} ${unit} ago` : `in ${count} ${unit}`;
  };
  // The clocks of the server and of this machine may differ.
  let skew = 0;
  const tell = (root) => {
    const now = Date.now() + skew;
    for (const time of root.querySelectorAll("main > :not(footer) time[datetime]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const text = ago((now - at) / 1000);
      if (time.textContent !== text) time.textContent = text;
      if (!time.dataset.local) {
        time.dataset.local = "yes";
        time.title = `${new Date(at).toLocaleString()} (${time.title || time.dateTime})`;
      }
    }
  };

  // Changes only what differs, so focus, selection and open details stay. Rows are matched by their
  // keys, so a focused link never becomes the link of another row.
  const key = (node) => node.dataset?.key;
  const same = (a, b) =>
    a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
  const morph = (old, fresh) => {
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) return;
    if (old.nodeName === "TIME" && old.dateTime === fresh.dateTime) return;
    for (const { name } of [...old.attributes]) {
      if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    children(old, fresh);
  };
  const children = (old, fresh) => {
    const kept = new Set([...fresh.children].map(key));
    for (const child of [...old.children]) {
      if (key(child) !== undefined && !kept.has(key(child))) child.remove();
    }
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      if (at && !same(at, wanted) && key(wanted) !== undefined) {
        let found = at.nextSibling;
        while (found && !same(found, wanted)) found = found.nextSibling;
        if (found) at = old.insertBefore(found, at);
      }
      if (at && same(at, wanted)) {
        morph(at, wanted);
        at = at.nextSibling;
      } else {
        old.insertBefore(wanted, at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  // The notice of what was done is for this time alone: not for a reload or a bookmark.
  const here = new URL(location);
  if (here.searchParams.has("done")) {
    here.searchParams.delete("done");
    history.replaceState(null, "", here);
  }

  const live = document.getElementById("live");
  const say = (state, text) => {
    if (!live) return;
    live.className = state;
    live.textContent = text;
  };

  const url = document.body.dataset.live;
  let source = null;
  const close = () => {
    source?.close();
    source = null;
  };
  const open = () => {
    if (!url || source || document.hidden) return;
    source = new EventSource(url);
    say("waiting", "Connecting");
    source.addEventListener("patch", ({ data }) => {
      const end = data.indexOf("\n");
      const part = document.getElementById(data.slice(0, end));
      if (!part) return;
      const focused = document.activeElement;
      children(part, parse(data.slice(end + 1)));
      // A row that has moved has lost the focus.
      if (focused.isConnected && focused !== document.activeElement) {
        focused.focus({ preventScroll: true });
      }
      tell(document);
    });
    source.addEventListener("look", ({ data }) => {
      const [at, took] = data.split(" ");
      skew = Date.parse(at) - Date.now();
      say("fresh", `Live · ${took} ms`);
      const mark = document.querySelector("footer time");
      if (mark) {
        mark.dateTime = at;
        mark.textContent = `${at.slice(0, 10)} ${at.slice(11, 19)} UTC`;
      }
      tell(document);
    });
    source.addEventListener("stale", () => say("stale", "The database does not answer"));
    source.addEventListener("bye", () => {
      close();
      say("stale", "The server ends");
      setTimeout(open, 5000);
    });
    source.addEventListener("error", () => {
      say("stale", "Not connected");
      // A browser gives a stream up that was refused. It is tried again, but not at once.
      if (source?.readyState === EventSource.CLOSED) {
        close();
        setTimeout(open, 15000);
      }
    });
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      say("waiting", "Paused");
    } else {
      open();
    }
  });
  // A page that a browser keeps for the way back must not keep its stream.
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  setInterval(() => tell(document), 1000);
  tell(document);
  open();
})();
