package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// source is one Go file of the module.
type source struct {
	name      string // relative to the module's root
	dir       string
	test      bool // in a _test.go file
	generated bool
	imports   []string
	lines     int
	file      *ast.File
	set       *token.FileSet
}

const root = "../../.."

// sources returns every Go file of the module, parsed once for all tests.
func sources(t *testing.T) []source {
	t.Helper()
	files, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found %d files only: is this the module's root?", len(files))
	}
	return files
}

var parsed = sync.OnceValues(func() (out []source, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && skipped(path, entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		s, err := parse(path)
		if err != nil {
			return err
		}
		out = append(out, s)
		return nil
	})
	return out, err
})

// skipped reports whether a directory holds nothing of ours to look at.
func skipped(path, name string) bool {
	return name == "testdata" || name == "node_modules" || name[0] == '.' || name[0] == '_' || nested(path)
}

// nested reports whether a directory is a module of its own.
func nested(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func parse(path string) (source, error) {
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return source{}, err
	}
	rel = filepath.ToSlash(rel)
	s := source{name: rel, dir: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(rel, "_test.go"), set: token.NewFileSet()}
	s.file, err = parser.ParseFile(s.set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return s, err
	}
	s.generated = ast.IsGenerated(s.file)
	s.lines = s.set.Position(s.file.FileEnd).Line
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return s, err
		}
		s.imports = append(s.imports, p)
	}
	return s, nil
}
