async function main() {
  await Bun.sleep(20);
  console.log("DONE");
}
main();
console.log("started");
