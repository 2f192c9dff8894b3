"""The console: pages of the server that `tailrace serve` runs, for people who would rather look than query.

Pages are made here, as HTML, from what `store` finds; scripts only keep them fresh. Whatever comes out of a chunk is
text in them, never markup: templates escape everything, scripts write `textContent`, and the policy that each answer
carries lets no inline script or style run (docs/console.md).
"""
