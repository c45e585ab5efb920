/** Asking the daemon. The key stays in this tab (sessionStorage) and goes out in a header, never in an address. */

const KEY = "selflearn.key";

/** What the daemon refused, in its words. */
export class ApiError extends Error {
  /**
   * @param {number} status 0: it could not be reached
   * @param {string} message
   * @param {string | null} code
   */
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** @type {() => Promise<boolean>} asks a person for a key; false if there is none */
let askForKey = async () => false;
/** @type {Promise<boolean> | null} the question that is open */
let asking = null;

/** @param {() => Promise<boolean>} ask is called whenever the daemon wants a key or another one */
export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

/** @param {string | null} key */
export function keepKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/**
 * @param {string} path
 * @param {Record<string, string | number | null | undefined>} [query] what is empty is left out
 * @returns {Promise<any>}
 */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const words = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return (await send("GET", words ? `${path}?${words}` : path)).json();
}

/**
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function post(path, body = {}) {
  return (await send("POST", path, { body })).json();
}

/**
 * Sends a request, asks for a key if one is needed, and returns an answer that is none of failure.
 * @param {string} method
 * @param {string} path
 * @param {{body?: object, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
export async function send(method, path, options = {}) {
  let response = await attempt(method, path, options);
  while (response.status === 401 && (await anotherKey())) response = await attempt(method, path, options);
  if (!response.ok) throw await problem(response);
  return response;
}

/**
 * Whether a key is known to the daemon.
 * @param {string} key
 * @returns {Promise<boolean>}
 */
export async function isKnown(key) {
  const response = await fetch("/v1/caller", { headers: { authorization: `Bearer ${key}` } });
  if (response.status === 401) return false;
  if (!response.ok) throw await problem(response);
  return true;
}

/**
 * The events of a stream, parsed, until it ends.
 * @param {Response} response
 * @returns {AsyncGenerator<any>}
 */
export async function* events(response) {
  if (response.body === null) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const data = JSON.parse(line.slice(6));
      if (data.error) throw new ApiError(500, data.error.message, data.error.code);
      yield data;
    }
  }
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{body?: object, headers?: Record<string, string>, signal?: AbortSignal}} options
 */
async function attempt(method, path, { body, headers = {}, signal }) {
  const key = sessionStorage.getItem(KEY);
  const sent = {
    ...headers,
    ...(key && { authorization: `Bearer ${key}` }),
    ...(body && { "content-type": "application/json" }),
  };
  try {
    return await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The daemon does not answer. Is it running?", "unreachable");
  }
}

/** @returns {Promise<boolean>} several requests that need a key at once ask once */
function anotherKey() {
  asking ??= askForKey().finally(() => (asking = null));
  return asking;
}

/** @param {Response} response */
async function problem(response) {
  const found = await response.json().catch(() => null);
  const message = found?.error?.message ?? `The daemon answered ${response.status}.`;
  return new ApiError(response.status, message, found?.error?.code ?? null);
}
