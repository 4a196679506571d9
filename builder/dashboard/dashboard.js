// Asks for the part of the page that changes, and keeps open what a person has opened.
"use strict";
const rack = document.getElementById("rack"), lost = document.getElementById("lost");
const opened = () => new Set([...rack.querySelectorAll("details[open]")].map(d => d.closest("article").id));
async function renew() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/rack", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(answer.status);
      const text = await answer.text(), open = opened();
      const positions = new Map([...rack.querySelectorAll("article pre")].map(p => [p.closest("article").id, p.scrollTop]));
      rack.innerHTML = text;
      for (const article of rack.querySelectorAll("article")) {
        const details = article.querySelector("details");
        if (details && open.has(article.id)) {
          details.open = true;
          details.querySelector("pre").scrollTop = positions.get(article.id) || 0;
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
