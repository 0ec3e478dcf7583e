console.log(new Intl.NumberFormat("de-DE", { style: "currency", currency: "EUR" }).format(1234.5), (1234567.891).toLocaleString());
console.log(new Date(0).toLocaleDateString("en-GB"), new Date(0).toString(), Intl.DateTimeFormat().resolvedOptions().timeZone);
console.log(["b", "a", "C", "ä"].sort(new Intl.Collator("de").compare), new Intl.PluralRules("en").select(1));
console.log(new Intl.ListFormat("en").format(["a", "b", "c"]), new Intl.RelativeTimeFormat("en").format(-1, "day"), Intl.DateTimeFormat().resolvedOptions().locale);
