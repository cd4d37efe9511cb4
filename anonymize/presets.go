package anonymize

import (
	"embed"
	"fmt"
	"strings"

	"github.com/carrel-project/carrel/internal/nearest"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// Presets returns the names of the policies that come with carrel: what other systems do by default, put
// into carrel's language, and strict, which is none of theirs.
func Presets() []string {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		return nil // cannot happen: the folder is compiled in
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = strings.TrimSuffix(e.Name(), ".yaml")
	}
	return names
}

// Preset returns the text of a policy that comes with carrel.
func Preset(name string) ([]byte, error) {
	data, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("anonymize: there is no preset %q%s", name, nearest.Hint(name, Presets()))
	}
	return data, nil
}
