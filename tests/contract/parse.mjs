// Parse an AsyncAPI document with the official parser; exit 1 and say why when it is not valid.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
for (const found of diagnostics.filter((d) => d.severity === 0)) {
  console.log(`${found.code}: ${found.message} (${found.path.join(".")})`);
}
process.exit(document === undefined ? 1 : 0);
