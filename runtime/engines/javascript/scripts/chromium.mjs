/** Headless Chromium whose pages can only reach one server on localhost. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname } from 'node:path';

const types = { '.js': 'text/javascript', '.mjs': 'text/javascript', '.wasm': 'application/wasm' };
// A page without an icon requests /favicon.ico, and the response would be an error in its console.
const page = '<!doctype html><title>siglip-onnx</title><link rel="icon" href="data:,">';
const quiet = ['no-first-run', 'disable-background-networking', 'disable-component-update', 'disable-sync'];

/** Sends an empty page, in which scripts run. */
export const sendPage = (response) => response.setHeader('content-type', 'text/html').end(page);

/** Sends a file, or 404. */
export async function sendFile(response, path) {
  try {
    const { size } = await stat(path);
    response.setHeader('content-type', types[extname(path)] ?? 'application/octet-stream');
    response.setHeader('content-length', size);
    createReadStream(path).on('error', () => response.destroy()).pipe(response);
  } catch {
    response.writeHead(404).end();
  }
}

/** Starts a server that other machines cannot reach. */
export async function serve(respond) {
  const server = createServer(respond);
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Starts a browser, without its sandbox, which containers do not support; it only runs the pages of `serve`. */
export function launch(chromium, executablePath, profile, env = process.env) {
  return chromium.launchPersistentContext(profile, {
    executablePath,
    env,
    headless: true,
    args: [...quiet, 'no-sandbox', 'disable-gpu', 'disable-quic'].map((flag) => `--${flag}`),
  });
}

/** Opens a page; calls `complain` for its errors, failed requests, and requests to other servers, which it blocks. */
export async function openTab(context, address, complain) {
  const tab = await context.newPage();
  const { origin } = new URL(address);
  tab.on('pageerror', (error) => complain(`page error: ${error.message}`));
  tab.on('console', (message) => message.type() === 'error' && complain(`console: ${message.text()}`));
  tab.on('requestfailed', (request) => complain(`failed request: ${request.url()}`));
  await tab.route((url) => url.origin !== origin, (route) => {
    complain(`request to ${route.request().url()}`);
    return route.abort();
  });
  await tab.goto(address);
  return tab;
}
