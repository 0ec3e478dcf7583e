interface Config {
  port: number;
}

function load(text: string): Config {
  const parsed = JSON.parse(text) as Config;
  console.log(Object.keys(parsed));
  return { port: parsed.port.toFixed(0) as any };
}

console.log(load('{"port": 80}'));
load("{}");
