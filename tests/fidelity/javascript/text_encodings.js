console.log(Buffer.from("héllo").toString("hex"), Buffer.from("68c3a9", "hex").toString(), Buffer.from("aGk=", "base64").toString("latin1"));
console.log(new TextDecoder("utf-16le").decode(new Uint8Array([104, 0, 105, 0])), new TextDecoder("latin1").decode(new Uint8Array([233])));
console.log([...new TextEncoder().encode("€")], "\ud800".isWellFormed(), encodeURIComponent("ä/ "), atob(btoa("x")));
try { new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([255])); } catch (error) { console.log(error.name); }
console.log("ﬁ".normalize("NFKC"), "İ".toLowerCase().length, "ß".toUpperCase(), [..."👨‍👩‍👧"].length);
