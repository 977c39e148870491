// Makes main.wasm of main.wat, with the Binaryen that scripts/setup installs for AssemblyScript.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const tools = '/usr/local/lib/lambent/assemblyscript';
const { default: binaryen } = await import(`${tools}/${readdirSync(tools)[0]}/node_modules/binaryen/index.js`);
const module = binaryen.parseText(readFileSync('main.wat', 'utf8'));
if (!module.validate()) process.exit(1);
writeFileSync(process.argv[2] ?? 'main.wasm', module.emitBinary());
