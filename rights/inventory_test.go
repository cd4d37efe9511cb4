package rights_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/anonymize"
	"github.com/carrel-project/carrel/circulation"
	"github.com/carrel-project/carrel/patron"
	"github.com/carrel-project/carrel/rights"
)

// Every field that the code declares is in the inventory, with a purpose, a retention and how it is sealed; a new one fails here until somebody says what it is for.
func TestInventoryIsComplete(t *testing.T) {
	data, err := anonymize.Preset("koha-default")
	require.NoError(t, err)
	policy, err := anonymize.ParsePolicy(data)
	require.NoError(t, err)
	for _, p := range []*anonymize.Policy{nil, policy} {
		items := rights.Inventory(p)
		in := map[string]string{}
		for _, i := range items {
			require.NotEmpty(t, i.Fields, i.Part)
			for what, text := range map[string]string{"where": i.Where, "part": i.Part, "purpose": i.Purpose, "retention": i.Retention, "sealing": i.Sealing} {
				require.NotEmpty(t, text, "%s %s: %s", i.Where, i.Part, what)
			}
			in[i.Where+"/"+i.Part] += " " + strings.Join(i.Fields, " ") + " "
		}
		for _, s := range access.AllSegments() {
			for _, f := range patron.Fields(s) {
				require.Contains(t, in["patron record/"+s.String()], " "+f.Name+" ")
			}
		}
		for _, k := range circulation.Kinds() {
			for _, f := range circulation.Fields(k) {
				part := map[circulation.Class]string{circulation.Identifying: "what identifies", circulation.Quasi: "what may single out"}[f.Class]
				if part != "" {
					require.Contains(t, strings.ReplaceAll(in[k.String()+"/"+part], "_", ""), " "+strings.ToLower(f.Name)+" ", k)
				}
			}
		}
		var b strings.Builder
		require.NoError(t, rights.WriteInventory(&b, items))
		require.Equal(t, len(items)+2, strings.Count(b.String(), "\n"))
		for line := range strings.Lines(b.String()) {
			require.Equal(t, 7, strings.Count(line, "|"), line)
		}
	}
	require.Contains(t, rights.Inventory(nil)[len(access.AllSegments())+10].Retention, "no retention policy")
}
