package compose

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// volumes converts volumes, binds and tmpfs.
func (m *importer) volumes(s types.ServiceConfig, f fields, service, docker, host object) {
	var volumes list
	tmpfs := object{}
	for _, v := range s.Volumes {
		field := "volumes." + v.Target
		one := object{"target": filepath.Clean(v.Target)}
		if v.ReadOnly {
			one["readOnly"] = true
		}
		switch v.Type {
		case types.VolumeTypeVolume:
			if one["name"] = v.Source; v.Source == "" {
				one["name"] = "anonymous-" + strings.Trim(invalidRE.ReplaceAllString(strings.ToLower(s.Name+"-"+v.Target), "-"), "-")
				m.report(field, "the anonymous volume is named %s and is kept when its container is removed", one["name"])
			}
			if v.Volume != nil && (v.Volume.NoCopy || v.Volume.Subpath != "") {
				m.report(field, "nocopy and subpath are not supported")
			}
		case types.VolumeTypeBind:
			if info, err := os.Stat(v.Source); err == nil && info.Mode().IsRegular() && v.ReadOnly && m.inProject(v.Source) { // it can be sent to the machine
				files, _ := service["files"].(object)
				if files == nil {
					files = object{}
					service["files"] = files
				}
				files[v.Target] = object{"from": m.artifact(v.Source)}
				continue
			}
			one["path"] = v.Source
			m.report(field, "%s must exist on the machine; only files and configs are sent there", v.Source)
			if v.Bind != nil && (v.Bind.Propagation != "" || v.Bind.SELinux != "") {
				m.report(field, "propagation and SELinux labels are not supported")
			}
		case types.VolumeTypeTmpfs:
			o := []string{}
			if v.Tmpfs != nil && v.Tmpfs.Size > 0 {
				o = append(o, fmt.Sprintf("size=%d", int64(v.Tmpfs.Size)))
			}
			if v.Tmpfs != nil && v.Tmpfs.Mode != 0 {
				o = append(o, fmt.Sprintf("mode=%o", v.Tmpfs.Mode))
			}
			tmpfs[v.Target] = strings.Join(o, ",")
			continue
		default:
			m.report(field, "volumes of type %s are not supported", v.Type)
			continue
		}
		volumes = append(volumes, one)
	}
	for _, t := range s.Tmpfs {
		target, o, _ := strings.Cut(t, ":")
		tmpfs[target] = o
	}
	if len(volumes) > 0 {
		docker["volumes"] = volumes
	}
	if len(tmpfs) > 0 {
		host["Tmpfs"] = tmpfs
	}
	delete(f, "volumes")
	delete(f, "tmpfs")
}

// files converts configs and secrets.
func (m *importer) files(s types.ServiceConfig, f fields, service object) {
	files := object{}
	for _, c := range s.Configs {
		def, target := m.project.Configs[c.Source], c.Target
		if target == "" {
			target = "/" + c.Source
		}
		one := object{}
		switch {
		case def.Content != "":
			one["text"] = def.Content
		case def.File != "":
			one["from"] = m.artifact(def.File)
		case def.Environment != "":
			v, ok := m.project.Environment[def.Environment]
			if !ok {
				m.report("configs."+c.Source, "its content is that of the variable %s, which is not given: --var %s=VALUE", def.Environment, def.Environment)
				continue
			}
			one["text"] = v
		default:
			m.report("configs."+c.Source, "its content is not in the compose file")
			continue
		}
		if c.UID != "" && c.UID != "0" || c.GID != "" && c.GID != "0" {
			m.report("configs."+c.Source, "files are owned by root and readable by all users")
		}
		if c.Mode != nil && one["from"] == nil {
			if mode := int64(*c.Mode) &^ 0o222; mode&0o004 != 0 {
				one["mode"] = fmt.Sprintf("%04o", mode)
			}
		}
		files[target] = one
	}
	if len(files) > 0 {
		service["files"] = files
	}
	secrets := object{}
	for _, c := range s.Secrets {
		target := c.Target
		if target == "" {
			target = c.Source
		}
		name := strings.TrimPrefix(target, "/run/secrets/")
		if !keyRE.MatchString(name) {
			m.report("secrets."+c.Source, "a secret is a file in /run/secrets whose name has only letters, digits and _: it is named %s", strings.ReplaceAll(invalidRE.ReplaceAllString(strings.ToLower(c.Source), "_"), "-", "_"))
			name = strings.ReplaceAll(invalidRE.ReplaceAllString(strings.ToLower(c.Source), "_"), "-", "_")
		}
		secrets[name] = expression("defx.secret(" + quote(c.Source) + ")")
		m.secrets[c.Source] = true
	}
	if len(secrets) > 0 {
		service["secrets"] = secrets
	}
	delete(f, "configs")
	delete(f, "secrets")
}

// inProject reports whether a file is in the folder of the compose file, so that
// it is not one of the machine.
func (m *importer) inProject(file string) bool {
	root, err := filepath.EvalSymlinks(m.project.WorkingDir)
	resolved, errFile := filepath.EvalSymlinks(file)
	return err == nil && errFile == nil && below(root, resolved)
}

// artifact returns the expression for a file, with its path relative to the library.
func (m *importer) artifact(file string) expression {
	if rel, err := filepath.Rel(m.out, file); err == nil {
		file = "./" + filepath.ToSlash(rel)
	}
	return expression("defx.artifact(" + quote(strings.Replace(file, "./../", "../", 1)) + ")")
}
