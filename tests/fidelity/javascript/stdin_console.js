// fidelity: stdin=one\ntwo\n\nlast
for await (const line of console) console.log(JSON.stringify(line));
