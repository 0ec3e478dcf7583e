for (let n = 0; n < 5; n++) {
  console.log("out", n);
  console.error("err", n);
  process.stdout.write(`stdout ${n}\n`);
}
