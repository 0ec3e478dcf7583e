class Builder { private parts: string[] = []; add(this: this, part: string): this { this.parts.push(part); return this; } build(): string { return this.parts.join("-"); } }
console.log(new Builder().add("a").add("b").build());
