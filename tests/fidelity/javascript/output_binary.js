process.stdout.write(Buffer.from([0, 255, 128, 10]));
process.stdout.write("caf\u00e9 \u{1f600}\n");
process.stdout.write("e9\n", "latin1");
await Bun.write(Bun.stdout, new Uint8Array([1, 2, 3, 10]));
