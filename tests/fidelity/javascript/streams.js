const { Readable, Transform, pipeline } = require("stream");
const upper = new Transform({ transform(piece, _, done) { done(null, piece.toString().toUpperCase()); } });
pipeline(Readable.from(["a", "b", "c"]), upper, process.stdout, (error) => console.error("done", error));
