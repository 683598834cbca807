// Updates the status page in place instead of reloading it. Only parts that changed are replaced, so that reading, selecting
// and scrolling are not disturbed, and the page shows when the daemon does not answer. Without scripts, the page shows the
// same data and reloads itself.
"use strict";
(() => {
  const EVERY = 5000;
  const PATIENCE = 4000;
  const root = document.documentElement;
  const main = document.querySelector("main");
  const said = document.getElementById("said");
  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  if (!main || !said || !live || !lost) return;
  root.classList.add("script");
  live.querySelector("span").textContent = "live";

  const named = (place) => [...place.querySelectorAll("[id^=vm-], #summary, #events")];
  const names = (place) => named(place).map((part) => part.id).join(" ");

  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const now = fresh.querySelector("main");
    if (!now) throw new Error("no status page");
    if (names(now) === names(main)) {
      for (const part of named(now)) {
        const old = document.getElementById(part.id);
        if (old.isEqualNode(part)) continue;
        const scrolled = old.scrollTop;
        old.replaceWith(part);
        part.scrollTop = scrolled;
      }
    } else {
      main.replaceChildren(...now.childNodes);
    }
    live.querySelector("time").replaceWith(fresh.querySelector("#live time"));
    document.title = fresh.title;
    // Screen readers announce each write to this element, so it is written only if the headline is new.
    const headline = fresh.getElementById("said").textContent;
    if (said.textContent !== headline) said.textContent = headline;
  };

  const tell = (gone) => {
    root.classList.toggle("lost", gone);
    lost.hidden = !gone;
    live.querySelector("span").textContent = gone ? "last at" : "live";
  };

  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
        if (!answer.ok) throw new Error(String(answer.status));
        show(await answer.text());
        tell(false);
      } catch {
        tell(true);
      }
    }
    timer = setTimeout(look, EVERY);
  };

  let timer = setTimeout(look, EVERY);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    clearTimeout(timer);
    look();
  });
})();
