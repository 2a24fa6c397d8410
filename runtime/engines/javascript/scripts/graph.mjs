/** A graph in ONNX Runtime, for Node and for a page. */
import { arrayOf, pack, unpack } from './frames.mjs';

// A free dimension without a name is "?" in Python (base.UNKNOWN), an empty name in Node, and an unsigned -1 in WASM.
const lengthOf = (length) => (length === '' || length === 2 ** 32 - 1 ? '?' : length);

/** Inputs and outputs of a session. */
export function describe({ inputMetadata, outputMetadata }) {
  const spec = ({ name, type, shape }) => ({ name, dtype: type, shape: shape.map(lengthOf) });
  return { inputs: inputMetadata.map(spec), outputs: outputMetadata.map(spec) };
}

/** Runs a graph: takes a frame with the inputs and the names of outputs, returns a frame with the outputs. */
export async function run({ Tensor }, session, frame) {
  const { outputs, tensors } = unpack(frame);
  const feeds = tensors.map(({ name, dtype, shape, data }) => [name, new Tensor(dtype, data, shape)]);
  const results = await session.run(Object.fromEntries(feeds), outputs);
  const listed = outputs.map((name) => [name, results[name]]);
  listed.forEach(([, { type }]) => arrayOf(type)); // throws for types that a frame cannot hold
  return pack({ tensors: listed.map(([name, { type, dims, data }]) => ({ name, dtype: type, shape: [...dims], data })) });
}
