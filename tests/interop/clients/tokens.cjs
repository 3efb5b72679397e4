// Count the tokens of each text of a JSON object, as one of the common model families does.
const [modules, file] = process.argv.slice(2);
const { encode } = require(`${modules}/node_modules/gpt-tokenizer/cjs/encoding/o200k_base`);
const texts = JSON.parse(require("fs").readFileSync(file, "utf8"));
console.log(JSON.stringify(Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, encode(text).length]))));
