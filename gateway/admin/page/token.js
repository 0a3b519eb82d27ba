// The token of the admin port: asked for where the gateway asks for it, kept by this tab alone, sent with each question.

import { byId, say } from "./dom.js";

const KEPT_AS = "kvgate-admin-token";

/** The gateway wants a token, or another one. */
export class Locked extends Error {}

/** The header that shows the token, if there is one. */
export function credentials() {
  const token = sessionStorage.getItem(KEPT_AS);
  byId("links").hidden = token !== null;
  return token === null ? {} : { authorization: `Bearer ${token}` };
}

/** Ask for it. */
export function askForToken() {
  const wrong = sessionStorage.getItem(KEPT_AS) !== null;
  sessionStorage.removeItem(KEPT_AS);
  say(byId("locked-what"), wrong ? "This is not the gateway's token." : "This gateway asks for its token.");
  byId("away").hidden = true;
  byId("locked").hidden = false;
  byId("token").focus();
}

/** Listen to the form; `look` again once there is a token. */
export function prepareToken(look) {
  byId("locked").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEPT_AS, byId("token").value.trim());
    byId("token").value = "";
    byId("locked").hidden = true;
    look();
  });
}
