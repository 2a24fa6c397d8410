/** Runs a graph in onnxruntime-web (WASM); what web.mjs serves is beside this script and above it. */
import { describe, run } from './graph.mjs';

const served = (path) => new URL(`../${path}`, import.meta.url).href;
const ort = await import(served('ort/ort.wasm.min.mjs'));
let session;

/** Opens the graph, with the files that hold its weights. */
export async function open({ provider, threads, data }) {
  Object.assign(ort.env.wasm, { wasmPaths: served('ort/'), numThreads: threads });
  session = await ort.InferenceSession.create(served('graph'), {
    executionProviders: [provider],
    externalData: data.map((path, number) => ({ path, data: served(`data/${number}`) })),
    logSeverityLevel: 3,
  });
  return { version: ort.env.versions.web, ...describe(session) };
}

/** Fetches a frame, and sends back what the graph makes of it. */
export async function answer() {
  const frame = await (await fetch(served('frame'))).arrayBuffer();
  const body = await run(ort, session, new Uint8Array(frame));
  await fetch(served('frame'), { method: 'POST', body });
}
