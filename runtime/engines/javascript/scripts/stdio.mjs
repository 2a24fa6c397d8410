/** The exchange with Python: a job as the first argument, frames on standard input and output. */
import { rmSync } from 'node:fs';
import { pack, PREFIX, sizes } from './frames.mjs';

export const job = JSON.parse(process.argv[2]);

// Keep the output of libraries out of the frames.
for (const kind of ['log', 'info', 'debug']) console[kind] = console.error;

const errorFrame = (error) => pack({ error: String(error?.message || error) });
const send = (frame) => new Promise((sent) => process.stdout.write(frame, sent));

/** Returns a function that fills an array from a stream, or returns null if the stream ends before. */
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
 * Sends the `about` of `open`, then for each frame the result of `answer`, until standard input ends, which happens when
 * Python closes it or ends. Errors are sent as frames.
 */
export async function converse(open) {
  const read = reader(process.stdin);
  try {
    const { about, answer, close } = await open();
    await send(pack(about));
    for (let frame; (frame = await nextFrame(read)) !== null; ) await send(await answer(frame).catch(errorFrame));
    await close();
    rmSync(job.scratch, { recursive: true, force: true }); // Python cannot, if it was killed
  } catch (error) {
    await send(errorFrame(error));
  }
  process.exit();
}
