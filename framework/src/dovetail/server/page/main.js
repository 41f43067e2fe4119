// Begins: builds the parts, and opens and closes the panel.
"use strict";

const WIDE = window.matchMedia("(min-width: 62rem)");

/** Open or close the panel; on a small screen it covers all the rest. */
function showPanel(open) {
  const covers = open && !WIDE.matches;
  $("panel").hidden = !open;
  $("panel-toggle").setAttribute("aria-expanded", open);
  $("header").inert = $("main").inert = covers;
  if (covers) $("panel").focus();
}

function togglePanel(open) {
  showPanel(open);
  if (WIDE.matches) keep({ panel: open });
  else if (!open) $("panel-toggle").focus();
}

async function begin() {
  buildSettings();
  buildChat();
  const fit = () => showPanel(WIDE.matches && kept.panel !== false);
  fit();
  WIDE.addEventListener("change", fit);
  $("panel-toggle").addEventListener("click", () => togglePanel($("panel").hidden));
  $("panel-close").addEventListener("click", () => togglePanel(false));
  $("panel").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !WIDE.matches) togglePanel(false);
  });
  watch();
  try {
    await listModels();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    $("welcome").textContent = error.message;
  }
}

begin();
