// Requests to the service: with the API key of this tab, retries while it is busy, and readable errors.

const TRIES = 5;
const MAX_WAIT_S = 30;

export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (value) => sessionStorage.setItem("key", value),
};

export class KeyNeeded extends Error {}

// Returns the response. `onWait(seconds)` is called before each retry. Throws KeyNeeded, or an Error to show.
export async function request(path, options = {}, onWait = () => {}) {
  const headers = { ...options.headers, ...(key.get() && { "X-API-Key": key.get() }) };
  for (let attempt = 1; ; attempt++) {
    const response = await send(path, { ...options, headers });
    if (isWebPage(response)) throw new Error(await explain(response)); // a sign-in page may have status 200 or 401
    if (response.ok) return response;
    if (response.status === 401) throw new KeyNeeded("The API key is missing or wrong.");
    const retryAfter = Number(response.headers.get("retry-after"));
    if (response.status !== 503 || !retryAfter || attempt === TRIES) throw new Error(await explain(response));
    const seconds = Math.min(retryAfter, MAX_WAIT_S);
    onWait(seconds);
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function isWebPage(response) {
  return (response.headers.get("content-type") ?? "").startsWith("text/html");
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw new Error("The service cannot be reached. Check the network and try again.");
  }
}

async function explain(response) {
  const type = response.headers.get("content-type") ?? "";
  if (!type.includes("json")) {
    return `A proxy answered instead of the service, with status ${response.status}. If you have to sign in, reload this page.`;
  }
  const { title, detail } = await response.json();
  return `${title}: ${detail}`;
}
