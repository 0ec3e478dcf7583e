const zlib = require("zlib"), crypto = require("crypto");
const packed = zlib.gzipSync("x".repeat(1000));
console.log(packed.length < 100, zlib.gunzipSync(packed).length, crypto.createHash("sha256").update("a").digest("hex").slice(0, 16));
zlib.deflate("text", (error, data) => console.log(error, zlib.inflateSync(data).toString()));
console.log(crypto.randomUUID().length, crypto.randomBytes(4).length, Bun.hash("a") === Bun.hash("a"));
