class HttpError extends Error {
  name = "HttpError";
  constructor(status) { super(`status ${status}`); this.status = status; }
}
console.log(String(new HttpError(404)), new HttpError(1) instanceof Error);
throw new HttpError(500);
