// Expands every *.tmpl beside this directory with Go's own text/template and writes what becomes of it: NAME.expected, or
// NAME.error where it is refused. Tests compare with these files; run `go run .` here after changing a template.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"github.com/BurntSushi/toml"
)

var env = map[string]string{
	"PLAN":     "network/ping",
	"N":        "3",
	"VERSIONS": "v0.1,v0.2,v0.3",
	"EMPTY":    "",
	"ODD":      `q"uo\te`,
}

func expand(path string) (string, error) {
	functions := template.FuncMap{
		"atoi":  strconv.Atoi,
		"split": func(s string) []string { return strings.Split(s, ",") },
		"pick": func(m map[string]interface{}, key string) map[string]interface{} {
			return map[string]interface{}{key: m[key]}
		},
		"withEnv": func(m map[string]interface{}) map[string]interface{} {
			with := map[string]interface{}{"Env": env}
			for key, value := range m {
				if key != "Env" {
					with[key] = value
				}
			}
			return with
		},
		"toml": func(v interface{}) (string, error) {
			var text bytes.Buffer
			err := toml.NewEncoder(&text).Encode(v)
			return text.String(), err
		},
		"load_resource": func(name string) (map[string]interface{}, error) {
			var resource map[string]interface{}
			_, err := toml.DecodeFile(filepath.Join(filepath.Dir(path), name), &resource)
			return resource, err
		},
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	parsed, err := template.New("tpl").Funcs(functions).Parse(string(source))
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, struct{ Env map[string]string }{env})
	return text.String(), err
}

func main() {
	paths, _ := filepath.Glob("../*.tmpl")
	for _, path := range paths {
		name := strings.TrimSuffix(path, ".tmpl")
		os.Remove(name + ".expected")
		os.Remove(name + ".error")
		text, err := expand(path)
		if err != nil {
			text, name = err.Error()+"\n", name+".error"
		} else {
			name += ".expected"
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println(len(paths), "templates")
}
