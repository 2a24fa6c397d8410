/**
 * Frames, in Node and in a page alike: what Python and these scripts send each other (runtime/engines/javascript/process.py).
 *
 * The sizes in bytes of header and body as two uint64, the header as JSON, and as the body the tensors that the header
 * lists ({ name, dtype, shape }), one after the other; all little-endian.
 */
export const PREFIX = 16;

// By ONNX Runtime's names of types, which are NumPy's.
const arrays = { float32: Float32Array, int64: BigInt64Array, int32: Int32Array, uint8: Uint8Array };

/** The kind of array that holds a type's values. */
export function arrayOf(dtype) {
  if (!(dtype in arrays)) throw new Error(`tensors of ${dtype} cannot be sent`);
  return arrays[dtype];
}

/** How many bytes follow a prefix: of the header, and of the body. */
export function sizes(prefix) {
  const view = new DataView(prefix.buffer, prefix.byteOffset, PREFIX);
  return [0, 8].map((at) => Number(view.getBigUint64(at, true)));
}

/** A frame's header, each of its tensors with its `data`. */
export function unpack(frame) {
  const [header, body] = sizes(frame);
  const { tensors = [], ...rest } = JSON.parse(new TextDecoder().decode(frame.subarray(PREFIX, PREFIX + header)));
  let at = PREFIX + header;
  const filled = tensors.map((tensor) => {
    const kind = arrayOf(tensor.dtype);
    const size = tensor.shape.reduce((product, length) => product * length, kind.BYTES_PER_ELEMENT);
    const data = new kind(frame.slice(at, (at += size)).buffer); // a copy, since an array of numbers must be aligned
    return { ...tensor, data };
  });
  if (at !== PREFIX + header + body) throw new Error('a frame of another size than its header says');
  return { ...rest, tensors: filled };
}

/** A frame of a header, whose `tensors`, if any, have their numbers as `data`. */
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
