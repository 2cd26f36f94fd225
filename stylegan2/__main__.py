from stylegan2.cli import main

main()
