interface Named {
  name: string;
}

function first<T extends Named>(things: T[]): T | undefined {
  return things[0];
}

class Thing implements Named {
  constructor(
    public readonly name: string,
    private size = 3,
  ) {}
}

console.log(first<Thing>([new Thing("a")])!.name satisfies string, first([]) as unknown);
