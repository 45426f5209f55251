CREATE TABLE patients(id INTEGER PRIMARY KEY, name TEXT, born TEXT, town TEXT);
CREATE TABLE visits(id INTEGER PRIMARY KEY, patient_id INTEGER, doctor TEXT, day TEXT, fee REAL, paid INTEGER);
INSERT INTO patients VALUES
  (1,'Lena','1980-05-01','Brest'),
  (2,'Omar','1955-12-12','Brest'),
  (3,'Tia','2015-07-30','Vannes'),
  (4,'Ugo','1999-01-02','Lorient');
INSERT INTO visits VALUES
  (1,1,'Roy','2024-01-10',30,1),
  (2,2,'Roy','2024-01-11',55,0),
  (3,2,'Kim','2024-02-15',80,1),
  (4,3,'Kim','2024-02-20',30,0),
  (5,1,'Roy','2024-03-08',30,1);
