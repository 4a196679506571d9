package dashboard

import (
	"strconv"

	g "maragu.dev/gomponents"
	"maragu.dev/gomponents/html"
)

// whole is the page.
func whole(v view) g.Node {
	return html.Doctype(html.HTML(html.Lang("en"),
		html.Head(
			html.Meta(html.Charset("utf-8")),
			html.Meta(html.Name("viewport"), html.Content("width=device-width, initial-scale=1")),
			html.TitleEl(g.Text(v.Cluster+" · Slipway")),
			html.Link(html.Rel("icon"), html.Href("data:,")),
			html.Link(html.Rel("stylesheet"), html.Href("/dashboard.css")),
			html.Script(html.Src("/dashboard.js"), html.Defer()),
			html.NoScript(html.Meta(g.Attr("http-equiv", "refresh"), html.Content("5"))),
		),
		html.Body(
			html.Main(html.ID("rack"), rack(v)),
			html.P(html.ID("lost"), html.Role("alert"), g.Attr("hidden"), g.Text("The boot server does not answer. What is shown is of before.")),
		),
	))
}

// rack is the part of the page that changes.
func rack(v view) g.Node {
	return g.Group{
		html.Header(
			html.H1(g.Text(v.Cluster)),
			html.Ul(html.Class("counts"), g.Map(v.Counts, func(c count) g.Node {
				return g.If(c.N > 0, html.Li(html.Class(c.Kind), html.B(g.Text(strconv.Itoa(c.N))), g.Text(" "+c.Label)))
			})),
			html.P(html.Class("rates"), g.Map(v.Rates, func(r string) g.Node { return html.Span(g.Text(r)) }), html.Time(g.Text(v.Time))),
		),
		g.Map(v.Warnings, func(w string) g.Node { return html.P(html.Class("warning"), html.Role("alert"), g.Text(w)) }),
		html.Section(html.Class("machines"), g.Map(v.Machines, node), g.If(len(v.Machines) == 0, html.P(g.Text("The cluster document has no nodes.")))),
		g.Iff(len(v.Unknown) > 0, func() g.Node {
			return html.Section(html.Class("unknown"), html.H2(g.Text("Not in the cluster document")), html.Div(html.Class("machines"), g.Map(v.Unknown, stranger)))
		}),
	}
}

// node is a machine of the document.
func node(m machine) g.Node {
	return html.Article(html.Class(m.Kind), html.ID(m.Name),
		html.H2(g.Text(m.Name+" "), html.Small(g.Text(m.Role))),
		state(m),
		g.Iff(len(m.Stages) > 0, func() g.Node {
			return g.Group{html.Ol(html.Class("stages"), g.Map(m.Stages, bar)), html.P(html.Class("total"), g.Text(m.Total+" since the first offer"))}
		}),
		lastWords(m),
		g.If(m.Log != "", html.Details(html.Summary(g.Text("Last words")), html.Pre(g.Text(m.Log)))),
		g.If(m.Kernel != "", html.Details(html.Class("kernel"), html.Summary(g.Text("Kernel log")), html.Pre(g.Text(m.Kernel)))),
		html.Dl(facts([]fact{{"address", m.Address}, {"MAC", m.MAC}, {"boots from", m.BootFrom}, {"seen", m.Seen}})),
	)
}

// stranger is a machine that isn't in the document.
func stranger(m machine) g.Node {
	return html.Article(html.Class("idle"), html.ID("m"+m.MAC),
		html.H3(g.Text(m.MAC)),
		state(m),
		g.Iff(m.Hardware != nil, func() g.Node {
			return g.Group{
				html.P(html.Class("summary"), g.Text(m.Hardware.Summary)),
				html.Details(html.Summary(g.Text("Hardware")), html.Dl(facts(m.Hardware.Facts), facts(m.Hardware.Parts))),
				html.P(html.Class("note"), html.Code(g.Text("slipway adopt "+m.MAC+" --role ROLE --cluster FILE --write"))),
			}
		}),
		g.If(m.Hardware == nil, html.P(html.Class("note"), g.Text(m.Note))),
		html.Dl(facts([]fact{{"address", m.Address}, {"seen", m.Seen}})),
	)
}

func state(m machine) g.Node {
	return html.P(html.Class("state"), html.B(g.Text(m.State)), g.If(m.Kind == "stuck", g.Group{g.Text(" "), html.Strong(g.Text("stuck"))}), g.If(m.For != "", g.Group{g.Text(" "), html.Span(g.Text("for " + m.For))}))
}

func bar(s stage) g.Node {
	share := strconv.Itoa(s.Share)
	return html.Li(g.If(s.Failed, html.Class("bad")), html.Span(html.Class("name"), g.Text(s.Name)), html.Progress(html.Max("1000"), html.Value(share), g.Text(share+"/1000")), html.Span(html.Class("took"), g.Text(s.Seconds)))
}

// lastWords is why a machine fails, else the newest thing known.
func lastWords(m machine) g.Node {
	switch {
	case m.Reason != "":
		return html.P(html.Class("reason"), g.If(m.Unit != "", g.Group{html.Code(g.Text(m.Unit)), g.Text(" ")}), g.Text(m.Reason))
	case m.Note != "":
		return html.P(html.Class("note"), g.Text(m.Note))
	}
	return nil
}

func facts(list []fact) g.Node {
	return g.Map(list, func(f fact) g.Node { return g.Group{html.Dt(g.Text(f.Name)), html.Dd(g.Text(f.Value))} })
}
