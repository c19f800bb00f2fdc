// CSV downloads: of every table from its cells, of every figure from its numbers. Works from file://, asks no network.
"use strict";
window.colinearReport = (() => {
  const brand = document.querySelector("h1")?.textContent ?? "colinear";

  // RFC 4180. A text that a spreadsheet would run as a formula gets an apostrophe; numbers keep their sign.
  const field = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value === "string" && /^([=@\t\r\n]|[+-](?![\d.\s]|$)|[+-][^]*[|!(=@])/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (columns, rows) => [columns, ...rows].map((row) => row.map(field).join(",")).join("\r\n") + "\r\n";

  const save = (key, columns, rows) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(columns, rows)], { type: "text/csv;charset=utf-8" }));
    link.download = `${brand}-${key}`.replace(/[^\w.-]+/g, "_").slice(0, 100) + ".csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };

  // `numbers` gives {columns, rows} when it is asked.
  const button = (key, title, numbers) => {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "csv";
    made.textContent = "CSV";
    made.title = `Download: ${title}`;
    made.setAttribute("aria-label", made.title);
    made.dataset.csv = key;
    made.addEventListener("click", () => {
      const { columns, rows } = numbers();
      save(key, columns, rows);
    });
    return made;
  };

  // What qualifies a cell stands in a column of its own.
  const cells = (table) => {
    const split = (cell) => {
      const subs = [...cell.querySelectorAll(".sub")].map((part) => part.textContent.trim());
      const copy = cell.cloneNode(true);
      copy.querySelectorAll(".sub").forEach((part) => part.remove());
      return [copy.textContent.trim(), subs.join("; ") || cell.title];
    };
    const head = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const body = [...table.tBodies[0].rows].map((row) => [...row.cells].map(split));
    const qualified = head.map((_, i) => body.some((row) => row[i]?.[1]));
    return {
      columns: head.flatMap((name, i) => (qualified[i] ? [name, `${name} (detail)`] : [name])),
      rows: body.map((row) => row.flatMap((pair, i) => (qualified[i] ? pair : [pair[0]]))),
    };
  };

  for (const table of document.querySelectorAll("table[id]")) {
    const title = table.parentElement.getAttribute("aria-label") ?? table.id;
    table.parentElement.after(button(table.id, title, () => cells(table)));
  }

  // A table that is wider than its place says so, on its edge and in words.
  const edges = new ResizeObserver((seen) => {
    for (const { target } of seen) {
      const more = target.scrollWidth > target.clientWidth + 1;
      target.classList.toggle("more", more);
      const cue = target.previousElementSibling;
      if (more && !cue?.matches(".cue")) {
        const made = document.createElement("p");
        made.className = "cue";
        made.textContent = "more columns: scroll sideways →";
        target.before(made);
      } else if (!more && cue?.matches(".cue")) cue.remove();
    }
  });
  document.querySelectorAll(".scroll").forEach((part) => edges.observe(part));

  const behind = document.getElementById("figure-numbers");
  const known = behind ? JSON.parse(behind.textContent) : {};
  for (const figure of document.querySelectorAll("figure[id^=figure-]")) {
    const key = figure.id.slice("figure-".length);
    const title = figure.querySelector("h3")?.textContent ?? key;
    const caption = figure.querySelector("figcaption");
    const table = document.getElementById(figure.dataset.table ?? "");
    const own = Object.hasOwn(known, key) ? known[key] : null;
    if (own?.file) {
      const link = document.createElement("a");
      link.className = "csv";
      link.href = link.textContent = own.file;
      caption.before(link);
    } else if (own || table) {
      caption.before(button(`figure-${key}`, title, () => own ?? cells(table)));
    }
  }
  return { button };
})();
