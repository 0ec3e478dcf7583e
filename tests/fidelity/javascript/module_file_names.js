console.log(__dirname === process.cwd(), __filename.startsWith(__dirname), require("path").extname(__filename));
