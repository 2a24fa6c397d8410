/** A graph in ONNX Runtime, in Node and in a page alike. */
import { arrayOf, pack, unpack } from './frames.mjs';

// A free dimension without a name is "?" for Python (engine.UNKNOWN). Node tells it as no name, WASM as an unsigned -1.
const lengthOf = (length) => (length === '' || length === 2 ** 32 - 1 ? '?' : length);

/** Its inputs and outputs. */
export function describe({ inputMetadata, outputMetadata }) {
  const spec = ({ name, type, shape }) => ({ name, dtype: type, shape: shape.map(lengthOf) });
  return { inputs: inputMetadata.map(spec), outputs: outputMetadata.map(spec) };
}

/** The frame with the outputs that a frame with the inputs asks for. */
export async function run({ Tensor }, session, frame) {
  const { outputs, tensors } = unpack(frame);
  const feeds = tensors.map(({ name, dtype, shape, data }) => [name, new Tensor(dtype, data, shape)]);
  const found = await session.run(Object.fromEntries(feeds), outputs);
  const listed = outputs.map((name) => [name, found[name]]);
  listed.forEach(([, { type }]) => arrayOf(type)); // refuses what Python would not be told rightly
  return pack({ tensors: listed.map(([name, { type, dims, data }]) => ({ name, dtype: type, shape: [...dims], data })) });
}
