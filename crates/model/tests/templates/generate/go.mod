module example.org/templates

go 1.21

require github.com/BurntSushi/toml v0.4.1
