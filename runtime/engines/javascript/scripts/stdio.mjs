/** The conversation with Python in Node: a job as the first argument, frames on standard input and output. */
import { rmSync } from 'node:fs';
import { pack, PREFIX, sizes } from './frames.mjs';

export const job = JSON.parse(process.argv[2]);

// What a library prints must not get between the frames.
for (const kind of ['log', 'info', 'debug']) console[kind] = console.error;

const said = (error) => pack({ error: String(error?.message || error) });
const send = (frame) => new Promise((sent) => process.stdout.write(frame, sent));

/** Gives a function that reads so many bytes, or null where the stream ends before. */
function reader(stream) {
  const chunks = stream[Symbol.asyncIterator]();
  let left = Buffer.alloc(0);
  return async (into) => {
    for (let at = 0; at < into.length; ) {
      if (left.length === 0) {
        const { value, done } = await chunks.next();
        if (done) return null;
        left = value;
      }
      const copied = left.copy(into, at);
      left = left.subarray(copied);
      at += copied;
    }
    return into;
  };
}

async function nextFrame(read) {
  const prefix = await read(new Uint8Array(PREFIX));
  if (prefix === null) return null;
  const [header, body] = sizes(prefix);
  const frame = new Uint8Array(PREFIX + header + body);
  frame.set(prefix);
  return (await read(frame.subarray(PREFIX))) && frame;
}

/**
 * Sends what `open` tells `about` a graph, then for each frame what `answer` makes of it, until there are no more:
 * standard input ends when Python is done, or dead. What goes wrong is sent as an error.
 */
export async function converse(open) {
  const read = reader(process.stdin);
  try {
    const { about, answer, close } = await open();
    await send(pack(about));
    for (let frame; (frame = await nextFrame(read)) !== null; ) await send(await answer(frame).catch(said));
    await close();
    rmSync(job.scratch, { recursive: true, force: true }); // where Python was killed, it cannot
  } catch (error) {
    await send(said(error));
  }
  process.exit();
}
