/**
 * Frames, for Node and for a page: the messages between Python (runtime/engines/javascript/process.py) and these scripts.
 *
 * The sizes in bytes of header and body as two uint64, the header as JSON, and as the body the tensors that the header
 * lists ({ name, dtype, shape }), one after the other; all little-endian.
 */
export const PREFIX = 16;

// Keys are ONNX Runtime's names of types, which equal NumPy's.
const arrays = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array };

/** The typed array of a dtype. */
export function arrayOf(dtype) {
  if (!(dtype in arrays)) throw new Error(`tensors of ${dtype} cannot be sent`);
  return arrays[dtype];
}

/** The sizes in bytes of header and body, from a prefix. */
export function sizes(prefix) {
  const view = new DataView(prefix.buffer, prefix.byteOffset, PREFIX);
  return [0, 8].map((at) => Number(view.getBigUint64(at, true)));
}

/** Reads a frame: its header, with the `data` of each tensor. */
export function unpack(frame) {
  const [header, body] = sizes(frame);
  const { tensors = [], ...rest } = JSON.parse(new TextDecoder().decode(frame.subarray(PREFIX, PREFIX + header)));
  let at = PREFIX + header;
  const filled = tensors.map((tensor) => {
    const kind = arrayOf(tensor.dtype);
    const size = tensor.shape.reduce((product, length) => product * length, kind.BYTES_PER_ELEMENT);
    const data = new kind(frame.slice(at, (at += size)).buffer); // a copy, because typed arrays must be aligned
    return { ...tensor, data };
  });
  if (at !== PREFIX + header + body) throw new Error('the size of the frame is not the one in its header');
  return { ...rest, tensors: filled };
}

/** Writes a frame of a header whose `tensors`, if any, have their values as `data`. */
export function pack({ tensors = [], ...rest }) {
  const listed = tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const header = new TextEncoder().encode(JSON.stringify({ ...rest, tensors: listed }));
  const parts = tensors.map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const body = parts.reduce((sum, part) => sum + part.length, 0);
  const frame = new Uint8Array(PREFIX + header.length + body);
  const view = new DataView(frame.buffer);
  [header.length, body].forEach((size, i) => view.setBigUint64(8 * i, BigInt(size), true));
  let at = PREFIX;
  for (const part of [header, ...parts]) {
    frame.set(part, at);
    at += part.length;
  }
  return frame;
}
