package main

import (
	"bytes"
	"cmp"
	_ "embed"
	"html/template"
	"maps"
	"slices"
	"time"

	"github.com/carrel-project/carrel/circulation"
)

//go:embed demo/page.html.tmpl
var demoTemplate string

// A demoBar is one line of a table with a bar.
type demoBar struct {
	Kind, Name, Meaning string
	Count               int
	Width               float64 // of the bar, per cent
}

type demoKind struct {
	Kind                     string
	Before, Unlinked, Kept   int
	UnlinkedWidth, KeptWidth float64
}

// page writes the report for people, as one file that needs nothing else.
func (d *demo) page(r demoResult, before, after demoView) ([]byte, error) {
	data := struct {
		Result                 demoResult
		At, Title              string
		Loans, Listed          int
		Unlinked, Linked       int
		Kinds                  []demoKind
		Rules, Reasons, Months []demoBar
		Unknown                int
		Gone, Stays            []demoExample
		Policy                 string
	}{Result: r, At: stamp(d.at), Title: d.policy.Title(), Loans: d.lib.Loans(), Listed: len(d.listed), Unknown: after.unknown,
		Months: monthBars(after.months, d.at), Policy: string(demoPolicy)}
	for _, k := range circulation.Kinds() {
		kr := r.Sweep.Kinds[k.String()]
		if kr == nil || kr.LinkedBefore == 0 {
			continue
		}
		data.Unlinked += kr.Unlinked
		data.Linked += kr.LinkedBefore
		share := 100 * float64(kr.Unlinked) / float64(kr.LinkedBefore)
		data.Kinds = append(data.Kinds, demoKind{k.String(), kr.LinkedBefore, kr.Unlinked, kr.Kept, share, 100 - share})
		for _, rule := range byCount(kr.ByRule) {
			data.Rules = append(data.Rules, demoBar{Kind: k.String(), Name: rule, Count: kr.ByRule[rule], Meaning: cmp.Or(d.policy.Why(k, rule), ruleMeaning(rule))})
		}
		for _, reason := range byCount(kr.ByReason) {
			data.Reasons = append(data.Reasons, demoBar{Kind: k.String(), Name: reason, Count: kr.ByReason[reason], Meaning: reasonMeaning(reason)})
		}
	}
	scale(data.Rules)
	scale(data.Reasons)
	data.Gone, data.Stays = pick(before, true), pick(after, false)
	t, err := template.New("page").Funcs(template.FuncMap{"n": thousands, "bytes": func(n int64) string { return thousands(int(n)) }}).Parse(demoTemplate)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// pick returns a few examples of one sort, no two with the same sentence.
func pick(v demoView, unlink bool) (few []demoExample) {
	for _, e := range v.examples {
		same := func(f demoExample) bool { return f.Why == e.Why }
		if e.unlink == unlink && len(few) < 8 && !slices.ContainsFunc(few, same) {
			few = append(few, e)
		}
	}
	return few
}

// scale makes the widest bar as wide as there is room.
func scale(bars []demoBar) {
	most := 1
	for _, b := range bars {
		most = max(most, b.Count)
	}
	for i := range bars {
		bars[i].Width = 100 * float64(bars[i].Count) / float64(most)
	}
}

// monthBars shows the coming year month by month, and what is later as one.
func monthBars(months map[string]int, at time.Time) []demoBar {
	last := at.UTC().AddDate(1, 0, 0).Format("2006-01")
	var bars []demoBar
	later := 0
	for _, m := range slices.Sorted(maps.Keys(months)) {
		if m > last {
			later += months[m]
			continue
		}
		bars = append(bars, demoBar{Name: m, Count: months[m]})
	}
	if later > 0 {
		bars = append(bars, demoBar{Name: "later", Count: later})
	}
	scale(bars)
	return bars
}
