// fidelity: stdin=some\ntext\n
let all = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (piece) => (all += piece));
process.stdin.on("end", () => console.log("end", JSON.stringify(all)));
