// Asks for the part of the page that changes, and keeps open what a person has opened.
"use strict";
const rack = document.getElementById("rack"), lost = document.getElementById("lost");
// A part that opens is known by its article and its place there.
const key = d => d.closest("article").id + " " + [...d.closest("article").querySelectorAll("details")].indexOf(d);
const opened = () => new Map([...rack.querySelectorAll("details[open]")].map(d => [key(d), d.querySelector("pre")?.scrollTop || 0]));
async function renew() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/rack", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text(), open = opened();
      rack.innerHTML = text;
      for (const details of rack.querySelectorAll("details")) {
        if (open.has(key(details))) {
          details.open = true;
          const words = details.querySelector("pre");
          if (words) words.scrollTop = open.get(key(details));
        }
      }
      lost.hidden = true;
    } catch {
      lost.hidden = false;
    }
  }
  setTimeout(renew, 2000);
}
setTimeout(renew, 2000);
