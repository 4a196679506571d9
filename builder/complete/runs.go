package complete

import (
	"strings"
)

// checkRuns notes what programs are declared to start.
func (c *checker) checkRuns() error {
	for _, r := range c.Runs {
		e, ok := c.Root.Resolve(strings.TrimPrefix(r.Program, "/"))
		if !ok {
			c.faults = append(c.faults, Fault{
				Reference{Kind: Program, From: strings.TrimPrefix(r.Program, "/"), Origin: r.By, How: "is declared (runs) to start", To: strings.Join(r.Names, ", ")},
				"it can't, because it is not in the image itself", "take it out of `runs` in role.yaml, or add the component that brings it"})
			continue
		}
		from := Reference{Kind: Program, From: strings.TrimPrefix(r.Program, "/"), Origin: e.Origin, How: "starts (" + r.By + ", runs)"}
		for _, name := range r.Names {
			from.To = name
			c.note(from, program(c.Root, name, searchPath))
		}
	}
	return nil
}
