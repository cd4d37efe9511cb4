package access

import (
	"embed"
	"errors"
	"strings"

	"github.com/carrel-project/carrel/internal/closed"
)

//go:embed presets/*.yaml
var presetFiles embed.FS

// Presets returns the names of the access files that come with carrel.
func Presets() []string {
	files, err := presetFiles.ReadDir("presets")
	if err != nil {
		return nil // cannot happen: the folder is compiled in
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.Name(), ".yaml")
	}
	return names
}

// Preset returns the text of an access file that comes with carrel.
func Preset(name string) ([]byte, error) {
	data, err := presetFiles.ReadFile("presets/" + name + ".yaml")
	if err != nil {
		return nil, errors.New("access: there is no such preset" + closed.Hint(name, Presets()))
	}
	return data, nil
}
