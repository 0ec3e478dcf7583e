class Base { log: string[] = ["base"]; constructor() { this.init(); } init(): void { this.log.push("init"); } }
class Derived extends Base { extra?: string; own = this.log.length; override init(): void { super.init(); this.log.push("derived"); } }
console.log(new Derived());
