# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page of a fleet does. Data alone. Without it, the page is a table and findings that unfold."""

from __future__ import annotations

__all__ = ["SCRIPT"]

SCRIPT = r"""
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, text) => Object.assign(document.createElement(name), {type: "button", textContent: text});
  const root = document.documentElement;
  const said = document.getElementById("said");
  all("[data-script]").forEach((part) => { part.hidden = false; });
  all("thead").forEach((part) => part.classList.remove("idle"));

  // Light and dark: what the system says, until somebody chooses.
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch (refused) {
      return null;
    }
  };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => theme.setAttribute("aria-pressed", String(dark()));
  if (["dark", "light"].includes(stored())) root.dataset.theme = stored();
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    stored(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();

  // Sorting: by the key of a cell, then by the order that the page came with. Cells without a key come last.
  const body = document.querySelector("tbody");
  const rows = all("tr", body);
  const collator = new Intl.Collator("en", {numeric: true, sensitivity: "base"});
  const compare = (one, other) =>
    Number.isNaN(Number(one)) || Number.isNaN(Number(other)) ? collator.compare(one, other) : one - other;
  const heads = all("thead th");
  heads.forEach((head, column) => {
    const button = make("button", head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending" ||
        (head.dataset.first === "descending" && !head.hasAttribute("aria-sort"));
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const keyed = rows.map((row, place) => ({row, place, key: row.cells[column].dataset.key}));
      keyed.sort((one, other) => {
        if (!one.key || !other.key) return (one.key ? 0 : 1) - (other.key ? 0 : 1) || one.place - other.place;
        return (falling ? -1 : 1) * compare(one.key, other.key) || one.place - other.place;
      });
      body.append(...keyed.map((entry) => entry.row));
      said.textContent = `Sorted by ${button.textContent}, ${falling ? "descending" : "ascending"}.`;
    });
  });

  // The filter hides servers, in the table and beneath it.
  const filter = document.getElementById("filter");
  const texts = new Map(all("tbody tr, section.host[data-host]").map((part) => [part, part.textContent.toLowerCase()]));
  const hosts = new Map(rows.map((row) => [row.dataset.host, row]));
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = new Set();
    texts.forEach((text, part) => {
      if (words.every((word) => text.includes(word))) found.add(part.dataset.host);
    });
    texts.forEach((text, part) => { part.hidden = !found.has(part.dataset.host); });
    said.textContent = `${rows.filter((row) => !row.hidden).length} of ${hosts.size} servers are shown.`;
  });

  // Folding.
  const folded = all("details.finding, details.more");
  const unfold = document.getElementById("unfold");
  const reword = () => {
    unfold.textContent = folded.length && folded.every((part) => part.open) ? "Fold all" : "Unfold all";
  };
  unfold.hidden = folded.length === 0;
  unfold.addEventListener("click", () => {
    const open = !folded.every((part) => part.open);
    folded.forEach((part) => { part.open = open; });
  });
  folded.forEach((part) => part.addEventListener("toggle", reword));
  const arrive = () => {
    const section = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const first = section && section.querySelector("details.finding");
    if (first) first.open = true;
  };
  addEventListener("hashchange", arrive);
  addEventListener("beforeprint", () => folded.forEach((part) => { part.open = true; }));
  arrive();

  // Copying. Where the page came over plain HTTP there is no clipboard to write to but the old way.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch (refused) {
      const area = Object.assign(document.createElement("textarea"), {value: text, readOnly: true, className: "aside"});
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) throw refused;
    }
  };
  all(".copy").forEach((button) => {
    button.addEventListener("click", async () => {
      let told = "Copied";
      try {
        await copy(button.parentElement.querySelector("pre").textContent);
      } catch (refused) {
        told = "Failed";
      }
      button.textContent = told;
      said.textContent = told;
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  });

  // How old the page is. One that nobody renews must not look like news.
  const time = document.querySelector("time");
  const minutes = Math.floor((Date.now() - Date.parse(time.dateTime)) / 60000);
  if (minutes >= 1) {
    const units = [[1440, "day"], [60, "hour"], [1, "minute"]];
    const [length, unit] = units.find(([size]) => minutes >= 2 * size || size === 1);
    const number = Math.floor(minutes / length);
    time.after(`, ${number} ${unit}${number === 1 ? "" : "s"} ago`);
  }
})();
"""
