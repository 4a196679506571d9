package complete

import "strings"

// checkBus notes what D-Bus starts when somebody asks for a name that nobody has (D-Bus specification, "Message Bus Starting
// Services"): a unit, else a program.
func (c *checker) checkBus() error {
	for _, bus := range []struct {
		folder string
		units  *unitSet
	}{{"system-services", c.system}, {"services", c.user}} {
		for _, e := range c.files([]string{".service"}, "etc/dbus-1/"+bus.folder, "usr/local/share/dbus-1/"+bus.folder, "usr/share/dbus-1/"+bus.folder) {
			options, err := c.options(e)
			if err != nil {
				return err
			}
			s := systemdUnit{file: e, options: options}
			if name := s.last("SystemdService"); name != "" {
				v := bus.units.exists(name)
				if u := bus.units.find(name); u != nil && u.file == nil {
					v = verdict{} // masked: asked for, it answers that
				}
				c.refer(Unit, e, "SystemdService= starts", name, v)
			} else if lines := commandLines(s.last("Exec")); len(lines) > 0 && !strings.HasSuffix(lines[0].program, "/bin/false") {
				// With false, the name is only ever taken by who has it already.
				c.refer(Program, e, "Exec= runs", lines[0].program, program(c.Root, lines[0].program, searchPath))
			}
			c.account(e, "User= names", s.last("User"), c.users)
		}
	}
	return nil
}
