package oracle

import (
	"fmt"
	"strings"

	"github.com/carrel-project/carrel/circulation"
)

// Word returns the word under which a policy file lists a kind.
func Word(k circulation.Kind) string {
	switch k {
	case circulation.KindLoan:
		return "loans"
	case circulation.KindRequest:
		return "requests"
	case circulation.KindSharing:
		return "sharing"
	case circulation.KindFee:
		return "fees"
	case circulation.KindNotice:
		return "notices"
	}
	panic("oracle: no kind")
}

// YAML writes the policy as a policy file.
func (p *Policy) YAML() []byte {
	var b strings.Builder
	line := func(indent int, format string, args ...any) {
		b.WriteString(strings.Repeat(" ", indent))
		fmt.Fprintf(&b, format, args...)
		b.WriteByte('\n')
	}
	id := p.ID
	if id == "" {
		id = "test/random"
	}
	line(0, "carrel-retention: 1")
	line(0, "id: %q", id)
	line(0, "revision: 1")
	if p.Match != "" {
		line(0, "match: %s", p.Match)
	}
	if p.Default != "" {
		line(0, "default: %s", p.Default)
	}
	switch {
	case p.Zone != "" && p.DayEnds != "":
		line(0, "clock: {zone: %s, day-ends: %q}", p.Zone, p.DayEnds)
	case p.Zone != "":
		line(0, "clock: {zone: %s}", p.Zone)
	case p.DayEnds != "":
		line(0, "clock: {day-ends: %q}", p.DayEnds)
	}
	if len(p.Groups) > 0 {
		line(0, "groups:")
		for _, s := range p.Groups {
			line(2, "%s: %s", s.Name, list(s.Members))
		}
	}
	if len(p.Holds) > 0 {
		line(0, "holds:")
		for _, h := range p.Holds {
			parts := []string{fmt.Sprintf("ref: %q", h.Ref)}
			if len(h.Items) > 0 {
				parts = append(parts, "item: "+list(h.Items))
			}
			if len(h.Record) > 0 {
				parts = append(parts, "record: "+list(h.Record))
			}
			if h.Until != "" {
				parts = append(parts, "until: "+h.Until)
			}
			line(2, "- {%s}", strings.Join(parts, ", "))
		}
	}
	if p.ShortenTo != "" || p.ExtendTo != "" {
		line(0, "patron-may:")
		if p.ShortenTo != "" {
			line(2, "shorten-to: %s", p.ShortenTo)
		}
		if p.ExtendTo != "" {
			line(2, "extend-to: %s", p.ExtendTo)
		}
	}
	line(0, "records:")
	for _, kr := range p.Kinds {
		if len(kr.Rules) == 0 {
			line(2, "%s: []", Word(kr.Kind))
			continue
		}
		line(2, "%s:", Word(kr.Kind))
		for _, m := range kr.Rules {
			line(4, "- name: %s", m.Name)
			for _, c := range []struct {
				key    string
				values []string
			}{{"group", m.Group}, {"group-now", m.GroupNow}, {"library", m.Library},
				{"location", m.Location}, {"type", m.Type}, {"payment-method", m.PaidMethod}} {
				if len(c.values) > 0 {
					line(6, "%s: %s", c.key, list(c.values))
				}
			}
			for _, kv := range [][2]string{{"fee", m.Fee}, {"patron-expired", m.PatronExpired},
				{"after", m.After}, {"since", m.Since}} {
				if kv[1] != "" {
					line(6, "%s: %s", kv[0], kv[1])
				}
			}
			if m.KeepLast > 0 {
				line(6, "keep-last: %d", m.KeepLast)
			}
			for _, kv := range [][2]string{{"per", m.Per}, {"at-most", m.AtMost}} {
				if kv[1] != "" {
					line(6, "%s: %s", kv[0], kv[1])
				}
			}
		}
	}
	return []byte(b.String())
}

func list(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
