interface Options { readonly count: number; readonly label?: string }
async function main({ count, label = "item" }: Options): Promise<number> {
  for (let i = 0; i < count; i++) { await Bun.sleep(1); console.log(label, i); }
  return count;
}
main({ count: 3 }).then((n) => { process.exitCode = n; });
